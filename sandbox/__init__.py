"""The embedded default: private servers and stand-in upstreams for the demo, for development and for the tests."""
