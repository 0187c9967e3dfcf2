//! What the free texts of a race mean: class, going, rail.

/// Whether the text has the word directly before a digit.
fn has_before_digit(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| text[at + word.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

fn contains_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// "'bm' or 'benchmark', optional blanks, the digit shown, any digit".
fn has_benchmark(class: &str, tens: char) -> bool {
    let is_followed = |rest: &str| {
        let mut characters = rest.trim_start_matches(' ').chars();
        characters.next() == Some(tens) && characters.next().is_some_and(|ones| ones.is_ascii_digit())
    };
    ["bm", "benchmark"]
        .iter()
        .any(|word| class.match_indices(word).any(|(at, _)| is_followed(&class[at + word.len()..])))
}

/// Table 5.3.1, first match wins.
pub(super) fn class_rating(race_class: Option<&str>, track_category: &str) -> i64 {
    let class = race_class.unwrap_or_default().to_lowercase();
    for (words, rating) in
        [(["group 1", "g1"], 100), (["group 2", "g2"], 90), (["group 3", "g3"], 80), (["listed", "listed"], 75)]
    {
        if contains_any(&class, &words) {
            return rating;
        }
    }
    for (tens, rating) in [('9', 70), ('8', 60), ('7', 50), ('6', 40), ('5', 35)] {
        if has_benchmark(&class, tens) {
            return rating;
        }
    }
    if contains_any(&class, &["bm", "benchmark"]) {
        return 30;
    }
    for (number, rating) in [(1, 50), (2, 45), (3, 40), (4, 35), (5, 30), (6, 25)] {
        if contains_any(&class, &[&format!("class {number}"), &format!("c{number}")]) {
            return rating;
        }
    }
    match track_category {
        _ if contains_any(&class, &["maiden", "mdn"]) => 20,
        _ if contains_any(&class, &["2yo", "2-y-o"]) => 35,
        _ if contains_any(&class, &["3yo", "3-y-o"]) => 40,
        "Metro" => 45,
        "Provincial" => 35,
        _ => 25,
    }
}

/// Table 5.3.1, last column: low is strong.
pub(super) fn class_level(race_class: Option<&str>) -> i64 {
    let class = race_class.unwrap_or_default().to_lowercase();
    let words = [["group 1", "g1"], ["group 2", "g2"], ["group 3", "g3"], ["listed", "listed"], ["open", "open"]];
    for (words, level) in words.iter().zip(1..) {
        if contains_any(&class, words) {
            return level;
        }
    }
    for (tens, level) in [('9', 6), ('8', 8), ('7', 10), ('6', 14), ('5', 17)] {
        if has_benchmark(&class, tens) {
            return level;
        }
    }
    if class.contains("maiden") { 20 } else { 15 }
}

/// "Contains handicap or hcp; or starts with 'Class <digit>' and contains neither 'set weights' nor 'sw'; or contains
/// 'BM<digit>', '0 - <digit>' or 'Rest. <digit>'". A missing class is none.
pub(super) fn is_handicap(race_class: Option<&str>) -> bool {
    let class = race_class.unwrap_or_default().to_lowercase();
    let is_numbered = class.strip_prefix("class ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    contains_any(&class, &["handicap", "hcp"])
        || (is_numbered && !contains_any(&class, &["set weights", "sw"]))
        || ["bm", "0 - ", "rest. "].iter().any(|word| has_before_digit(&class, word))
}

/// "2 (or 3), optional blank or hyphen, y or year, optional blank or hyphen, o or old; else open".
pub(super) fn age_restriction(race_class: Option<&str>) -> &'static str {
    let class = race_class.unwrap_or_default().to_lowercase();
    let gap = |rest: &'_ str| usize::from(rest.starts_with([' ', '-']));
    let is_age = |rest: &str| {
        let rest = &rest[gap(rest)..];
        let rest = rest.strip_prefix("year").or_else(|| rest.strip_prefix('y'));
        rest.is_some_and(|rest| rest[gap(rest)..].starts_with('o'))
    };
    let has_age = |years: char| class.match_indices(years).any(|(at, _)| is_age(&class[at + 1..]));
    match () {
        () if has_age('2') => "2yo",
        () if has_age('3') => "3yo",
        () => "open",
    }
}

/// "`fillies_mares` if class contains both 'fillies' and 'mares'; else `fillies`; else `mares`; else `open`".
pub(super) fn sex_restriction(race_class: Option<&str>) -> &'static str {
    let class = race_class.unwrap_or_default().to_lowercase();
    match (class.contains("fillies"), class.contains("mares")) {
        (true, true) => "fillies_mares",
        (true, false) => "fillies",
        (false, true) => "mares",
        (false, false) => "open",
    }
}

/// `track_condition_numeric`: "prefix of the going … null stays null".
pub(super) fn going_number(track_condition: Option<&str>) -> Option<i64> {
    let going = track_condition?.to_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| going.starts_with(word));
    Some(match () {
        () if begins(&["firm", "good 1", "good 2"]) => 1,
        () if begins(&["good 3", "good 4"]) => 3,
        () if begins(&["good"]) => 2,
        () if begins(&["soft 5", "soft 6", "yielding"]) => 4,
        () if begins(&["soft", "wet"]) => 5,
        () if begins(&["heavy 8"]) => 6,
        () if begins(&["heavy"]) => 7,
        () => 3,
    })
}

/// "Group g: soft, heavy, synthetic (or all weather), else good (firm and unknown too)".
pub(super) fn going_group(track_condition: Option<&str>) -> Option<&'static str> {
    let going = track_condition?.to_lowercase();
    Some(match () {
        () if going.starts_with("soft") => "soft",
        () if going.starts_with("heavy") => "heavy",
        () if going.starts_with("synthetic") || going.starts_with("all weather") => "synthetic",
        () => "good",
    })
}

/// `rail_out_metres` and `is_rail_true`: the true rail if the text leads with it, else "the first number after 'Out' or
/// '+'", else nothing.
pub(super) fn rail(track_info: Option<&str>) -> Option<(f64, bool)> {
    let text = track_info?.to_lowercase();
    if text.starts_with("rail - true") {
        return Some((0.0, true));
    }
    let is_word = |at: usize, length: usize| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !text[..at].ends_with(is_part) && !text[at + length..].starts_with(is_part)
    };
    let out = text.match_indices("out").map(|(at, _)| at).find(|&at| is_word(at, "out".len()));
    let first = [out, text.find('+')].into_iter().flatten().min()?;
    let from = first + text[first..].find(|c: char| c.is_ascii_digit())?;
    let digits = |at: usize| at + text[at..].chars().take_while(char::is_ascii_digit).count();
    let whole = digits(from);
    let fraction = if text[whole..].starts_with('.') { digits(whole + 1) } else { whole };
    let end = if fraction > whole + 1 { fraction } else { whole };
    text[from..end].parse().ok().map(|metres| (metres, false))
}
