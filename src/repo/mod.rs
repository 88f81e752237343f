//! What is stored: keys, manifests, the catalogue, intents, records.
