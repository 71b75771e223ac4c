"""What an operator can do: look at sessions and upstreams, move, drain and swap, change the route table."""
