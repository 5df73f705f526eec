//! Which lines of the catalogue are covered here, and where the others are.
