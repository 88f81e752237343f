//! What a caller tells us: the environment, connection sources, secrets. The only module that reads the environment.

pub mod directories;
pub mod environment;
pub mod secret;
