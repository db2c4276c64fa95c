//! Pages of a list. Each page begins behind the last record of the one before it, so the cost of a
//! page does not depend on its position, and changes between two pages neither skip nor repeat
//! other records.

/// The most records of one page.
pub const MAX_PAGE: u32 = 200;

/// A record with its version, which is the counter of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub record: T,
    /// The version. An update may name it, so that it fails if the record has changed since.
    pub changed: i64,
}

impl<T> Stored<T> {
    /// Returns another record with the same version.
    #[must_use]
    pub fn map<U>(self, record: impl FnOnce(T) -> U) -> Stored<U> {
        Stored {
            record: record(self.record),
            changed: self.changed,
        }
    }
}

/// A page of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, C> {
    /// The records in the order of the list.
    pub items: Vec<T>,
    /// The position of the next page, or `None` if this is the last one.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// Creates a page from the rows of a query that asked for one row more than the page has
    /// ([`rows_of`]). `position` returns the position of a record.
    pub(crate) fn new(mut items: Vec<T>, size: u32, position: impl Fn(&T) -> C) -> Self {
        let size = usize::try_from(size_of_page(size)).unwrap_or(usize::MAX);
        let has_more = items.len() > size;
        items.truncate(size);
        let last = items.last().filter(|_| has_more);
        let next = last.map(position);
        Page { items, next }
    }
}

/// Returns how many rows the query of a page asks for.
pub(crate) fn rows_of(size: u32) -> i64 {
    i64::from(size_of_page(size)).saturating_add(1)
}

/// Returns the size within the bounds.
fn size_of_page(size: u32) -> u32 {
    size.clamp(1, MAX_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_row_means_a_further_page() {
        let page = |rows: &[i64]| Page::new(rows.to_vec(), 2, |item| *item);
        assert_eq!(rows_of(2), 3);
        assert_eq!(page(&[]).next, None);
        assert_eq!(page(&[1, 2]).next, None);
        let first = page(&[1, 2, 3]);
        assert_eq!((first.items, first.next), (vec![1, 2], Some(2)));
    }

    #[test]
    fn the_size_of_a_page_is_bounded() {
        assert_eq!(rows_of(0), 2);
        assert_eq!(rows_of(u32::MAX), i64::from(MAX_PAGE) + 1);
    }
}
