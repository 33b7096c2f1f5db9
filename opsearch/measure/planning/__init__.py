"""Planning: the chunks of a measurement, their tries, work and memory."""
