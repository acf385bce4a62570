"""The package inside other frameworks; each needs an extra of its name.

Nothing is imported before it is asked for."""
