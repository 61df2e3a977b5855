//! What comes of an object.

/// An object as the core wants it, with what could not be read of it.
pub(super) struct Read<V> {
    pub(super) value: Option<V>,
    pub(super) problems: Vec<String>,
}

impl<V> Read<V> {
    pub(super) fn clean(value: V) -> Self {
        Self { value: Some(value), problems: Vec::new() }
    }
}
