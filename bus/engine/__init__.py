"""What carries the broker's decisions out: sockets, the journal, the loop."""
