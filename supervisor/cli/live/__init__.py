"""`smsengine status --watch` on a terminal: the state of all nodes, drawn again and again."""
