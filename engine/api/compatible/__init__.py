"""Calls of other gateways, understood at an address of their own, `[compatible] listen`: an application that
speaks to Kannel or to Twilio moves over by a change of its URL and its password. docs/compatible.md says what
is different."""
