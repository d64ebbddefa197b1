"""Host names, connections to them and their encryption, and which of them webhooks may reach."""
