//! Objects as files in a directory of the local file system.
