"""The stages of a run and the files they leave; the command line and programs start here."""
