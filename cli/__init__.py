"""The command line: one file a subcommand. Nothing else imports rich or typer."""
