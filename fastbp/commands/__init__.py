"""Floor 5: what each command does; a module is loaded when its command is used."""
