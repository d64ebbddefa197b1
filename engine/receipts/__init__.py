"""What providers say later, and the messages it is about."""
