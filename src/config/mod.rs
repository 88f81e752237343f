//! What a caller tells us: the environment, connection sources, secrets. The only module that reads the environment.

pub mod directories;
pub mod duration;
pub mod env_file;
pub mod environment;
pub mod file;
pub mod load;
pub mod private_file;
pub mod secret;
pub mod spelling;
