"""What protects a long run on many hosts: stops on request, hanging hosts, NaN or diverging losses."""
