//! route (being written).
