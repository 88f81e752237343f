//! What a mistyped word was meant to be.

/// The known word that is nearest to `typed`, if one is near enough to be meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, word) = known.into_iter().map(|word| (distance(word, typed), word)).min()?;
    (distance <= 2 || distance * 4 <= word.chars().count()).then_some(word)
}

/// How many characters must be inserted, removed or replaced to make `a` from `b` (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_near_if_few_letters_are_wrong() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        let known = ["BACKUP_MODE", "BACKUP_BASE_DIR", "OSS_ACCESS_KEY_SECRET"];
        assert_eq!(nearest("BACKUP_MDOE", known), Some("BACKUP_MODE"));
        assert_eq!(nearest("OSS_ACCES_KEY_SECRETS", known), Some("OSS_ACCESS_KEY_SECRET"));
        assert_eq!(nearest("OSS_SECRET_ACCESS_KEY", known), None);
        assert_eq!(nearest("x", []), None);
    }
}
