//! "did you mean": the known word with the smallest edit distance.

/// The nearest of the known words, where one is near enough to be meant.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written: Vec<char> = written.chars().take(LONGEST).flat_map(char::to_lowercase).collect();
    let limit = (written.len() / 3).clamp(1, 3);
    let mut best: Option<(usize, &str)> = None;
    for word in known {
        let candidate: Vec<char> = word.chars().take(LONGEST).flat_map(char::to_lowercase).collect();
        if candidate.len().abs_diff(written.len()) > limit {
            continue;
        }
        let distance = distance(&written, &candidate);
        // By name among equals, so that the order of a map does not show.
        if distance <= limit && best.is_none_or(|nearest| (distance, word) < nearest) {
            best = Some((distance, word));
        }
    }
    // Words of one or two characters are near to everything.
    best.filter(|(distance, word)| *distance < word.chars().count().max(written.len())).map(|(_, word)| word)
}

/// The same as a line of help.
pub(crate) fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(written, known).map(|word| format!("did you mean `{word}`?"))
}

/// Insertions, deletions, changes and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["upstream", "host", "path", "api"];
        assert_eq!(nearest("upstrem", known), Some("upstream"));
        assert_eq!(nearest("ap", known), Some("api"));
        assert_eq!(nearest("hsot", known), Some("host"));
        assert_eq!(nearest("HOST", known), Some("host"));
        assert_eq!(nearest("zebra", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("x", ["y"]), None);
    }
}
