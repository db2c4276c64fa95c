//! Pages of live things, which the master lists in the order of their numbers.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::refusal::Refusal;
use crate::{administration::DEFAULT_PAGE, policy::AccountId, store::MAX_PAGE};
use report_proto::id::Id;

/// A list of live links or tunnels, in the order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LiveQuery {
    /// Only those of this account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<i64>)]
    pub account: Option<AccountId>,
    /// Only those of this key id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub key: Option<Id>,
    /// The position behind which the page begins: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The most items of the page, 1 to 200. By default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
}

/// Returns the number of items of a page.
pub(super) fn size_of(size: Option<u32>) -> Result<usize, Refusal> {
    let size = size.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&size) {
        let message = format!("write 1 to {MAX_PAGE}");
        return Err(Refusal::invalid("size", message));
    }
    Ok(usize::try_from(size).unwrap_or(usize::MAX))
}

/// Returns the first items behind a position, and the position of the next page. The items are in
/// the order of their positions.
pub(super) fn page_of<T, P: PartialOrd>(
    items: impl IntoIterator<Item = T>,
    after: Option<&P>,
    size: usize,
    position: impl Fn(&T) -> P,
) -> (Vec<T>, Option<P>) {
    let is_behind = |item: &T| after.is_none_or(|after| position(item) > *after);
    let mut behind = items.into_iter().filter(is_behind);
    let page: Vec<T> = behind.by_ref().take(size).collect();
    let has_more = behind.next().is_some();
    let next = page.last().filter(|_| has_more).map(&position);
    (page, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_continue_behind_the_last_item() {
        let page =
            |after: Option<u64>, size| page_of(1..=5_u64, after.as_ref(), size, |item| *item);
        assert_eq!(page(None, 2), (vec![1, 2], Some(2)));
        assert_eq!(page(Some(2), 2), (vec![3, 4], Some(4)));
        assert_eq!(page(Some(4), 2), (vec![5], None));
        assert_eq!(page(Some(9), 2), (vec![], None));
        assert_eq!(page(None, 5), (vec![1, 2, 3, 4, 5], None));
    }

    #[test]
    fn the_size_of_a_page_has_bounds() {
        assert_eq!(size_of(None).unwrap(), 100);
        assert_eq!(size_of(Some(200)).unwrap(), 200);
        for size in [0, 201] {
            let refusal = size_of(Some(size)).unwrap_err();
            assert_eq!(refusal.body().field.as_deref(), Some("size"));
        }
    }
}
