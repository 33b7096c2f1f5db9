"""Planning: which chunks a measurement is cut into, their tries, and what they take."""
