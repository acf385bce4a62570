"""What `fungi-seg COMMAND` calls: the options of a command are the arguments of its function."""
