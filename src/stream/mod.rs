//! Bytes in motion: compression in blocks on several threads, each block proven by decoding it again.
