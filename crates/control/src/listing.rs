//! Instances in messages for people.

/// Names that are listed.
const LISTED: usize = 5;

/// The number of instances and the first of their names, such as `1 instance (shop.test.web.test/0)`; `None` if there are
/// none.
pub(crate) fn instances(names: &[String]) -> Option<String> {
    let listed = names.get(..LISTED).unwrap_or(names).join(", ");
    let more = if names.len() > LISTED { ", …" } else { "" };
    let plural = if names.len() == 1 { "" } else { "s" };
    (!names.is_empty()).then(|| format!("{} instance{plural} ({listed}{more})", names.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_are_named() {
        let names: Vec<_> = (0..6).map(|number| format!("web/{number}")).collect();
        let said = |count| instances(&names[..count]);
        assert_eq!(said(0), None);
        assert_eq!(said(1).unwrap(), "1 instance (web/0)");
        assert_eq!(said(5).unwrap(), "5 instances (web/0, web/1, web/2, web/3, web/4)");
        assert_eq!(said(6).unwrap(), "6 instances (web/0, web/1, web/2, web/3, web/4, …)");
    }
}
