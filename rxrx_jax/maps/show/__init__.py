"""What a map says of one gene or compound."""
