//! Builds the parts from the configuration (being written).
