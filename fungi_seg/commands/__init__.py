"""What is typed goes in; calls of the package come out.

A command is a function whose signature gives its options; it imports what it needs when it runs."""
