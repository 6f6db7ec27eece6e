//! What somebody may have meant.

/// The known word that is nearest to `word`, if one is near: two typing errors at most, and fewer in
/// a short word.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).clamp(1, 2);
    let far = known.into_iter().map(|other| (strsim::damerau_levenshtein(word, other), other));
    far.filter(|(distance, _)| *distance <= most).min().map(|(_, other)| other)
}

/// The same for what serde says of an unknown field:
/// ``unknown field `stroe`, expected one of `store`, `mounts` ``.
pub fn field(message: &str) -> Option<&str> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    nearest(word, quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["store", "mounts", "node_dir"];
        for (word, meant) in [
            ("stroe", Some("store")),
            ("mount", Some("mounts")),
            ("nodedir", Some("node_dir")),
            ("image", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn serdes_message_is_understood() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[expect(dead_code, reason = "only its name is asked for")]
            store: Option<String>,
        }
        let error = toml::from_str::<File>("stor = 1").expect_err("typo");
        assert_eq!(field(error.message()), Some("store"));
        assert_eq!(field("invalid type"), None);
    }
}
