"""`smsengine provider test`: one message through one provider, and every step of it on the screen."""
