//! Integration tests against the real thing: a private Postgres, the real binary.

mod local_server;
mod support;
