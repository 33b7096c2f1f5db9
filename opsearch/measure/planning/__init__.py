"""Planning: which chunks a measurement is cut into, and what they take."""
