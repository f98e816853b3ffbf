"""What keeps a long run on many hosts from being lost: hosts that agree, stops on request, stuck hosts, bad losses."""
