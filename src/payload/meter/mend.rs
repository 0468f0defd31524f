//! JSON that never was any, made so.

/// The mistakes that cgminer's heirs are known to make, put right outside of strings: no comma between tables, one too
/// many before a bracket or after one, `nan` and `inf` bare (they become text, which is no plausible number), and raw
/// control characters inside a string. The list is what pyasic (`rpc/base.py`, `_load_api_data`) mends after years of
/// meeting such machines.
pub(super) fn mend(text: &str) -> String {
    let mut mended = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '"' => string(rest, &mut mended),
            c if is_word(c) => word(rest, &mut mended),
            // One is enough between words, and a long run of them must not be looked back over again and again.
            c if c.is_whitespace() => {
                if !mended.ends_with(' ') {
                    mended.push(' ');
                }
                c.len_utf8()
            }
            c => {
                mark(c, &mut mended);
                c.len_utf8()
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    mended
}

/// Copies a string without raw control characters; how long it was.
fn string(rest: &str, mended: &mut String) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        mended.push(if c < ' ' { ' ' } else { c });
        if c == '"' && !escaped && at > 0 {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

/// Copies a number or a name, `nan` and `inf` in quotes; how long it was.
fn word(rest: &str, mended: &mut String) -> usize {
    let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    let word = rest.get(..length).unwrap_or_default();
    let bare = word.trim_start_matches(['+', '-']);
    if ["nan", "inf", "infinity"].iter().any(|odd| bare.eq_ignore_ascii_case(odd)) {
        mended.push_str("\"nan\"");
    } else {
        mended.push_str(word);
    }
    length
}

/// Copies a mark, with the comma before it that is missing and without the one that is too many.
fn mark(mark: char, mended: &mut String) {
    let before = mended.trim_end();
    let (last, end) = (before.chars().next_back(), before.len());
    match (mark, last) {
        ('{', Some('}')) => mended.push(','),
        ('}' | ']', Some(',')) => mended.truncate(end - 1),
        (',', None | Some('[' | '{')) => return,
        _ => {}
    }
    mended.push(mark);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_stays_as_it_is_and_what_is_known_to_be_wrong_is_put_right() {
        let right = r#"{"a": [1, -2.5e+3, {"b": "x, ]}{\"nan\""}], "c": null, "d": true}"#;
        assert_eq!(mend(right), right);
        for (wrong, right) in [
            (r#"{"a":1}{"b":2}"#, r#"{"a":1},{"b":2}"#),
            (r#"[,{"a":1, },]"#, r#"[{"a":1}]"#),
            ("[1\n\n 2]", "[1 2]"),
            (r#",{"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":NaN,"b":-Infinity,"info":inf}"#, r#"{"a":"nan","b":"nan","info":"nan"}"#),
            ("{\"a\":\"x\ty\"}", "{\"a\":\"x y\"}"),
            ("\"never ends\\", "\"never ends\\"),
            ("", ""),
        ] {
            assert_eq!(mend(wrong), right, "{wrong}");
        }
        // Looking back over all of it for each comma would take minutes.
        assert_eq!(mend(&format!("[{}{}1]", " ".repeat(130_000), ",".repeat(130_000))), "[ 1]");
    }
}
