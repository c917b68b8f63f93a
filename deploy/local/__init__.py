"""The whole stack on one machine, its servers from wheels: `make up` and the tests use it."""
