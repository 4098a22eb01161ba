"""One run from its settings: what is opened, built, restored, watched and saved."""
