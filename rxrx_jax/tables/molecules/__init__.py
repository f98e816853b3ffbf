"""Tables of molecules."""
