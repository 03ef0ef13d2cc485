//! From two lists of frames to one. Where the interpreter runs Python's code there is a
//! frame of `_PyEval_EvalFrameDefault` in the stack, one for each call from C; for the
//! same call there are one or several frames in the list that the interpreter keeps. These
//! stand in place of that.

use prof_model::stacks::Whole;

use crate::abi::python::ENTRY;
use crate::abi::python::FILE_PYTHON;
use crate::abi::python::mark;
use crate::abi::stacks::UserFrame;

/// A frame of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Code of the processor.
    Code(UserFrame),
    /// A code object of Python's, by its number.
    Python(u64),
}

/// Takes Python's part off a stack as the kernel half sends it.
pub fn split(user: &mut Vec<UserFrame>) -> Vec<UserFrame> {
    let at = user.iter().position(|f| f.file == FILE_PYTHON).unwrap_or(user.len());
    user.split_off(at)
}

/// Python's part: what each call of the interpreter runs, the latest first, and how it ends.
fn calls(part: &[UserFrame]) -> (Vec<Vec<u64>>, u64) {
    let (mut calls, mut call) = (Vec::new(), Vec::new());
    for word in part.iter().map(|f| f.offset) {
        match word {
            mark::CALL => calls.push(std::mem::take(&mut call)),
            0..mark::MARKS => {
                if !call.is_empty() {
                    calls.push(call);
                }
                return (calls, word);
            }
            _ => {
                call.push(word & !ENTRY);
                if word & ENTRY != 0 {
                    calls.push(std::mem::take(&mut call));
                }
            }
        }
    }
    (calls, mark::UNREADABLE)
}

/// Joins a stack, leaf first, and what is known of Python's frames. `is_eval` says of a
/// frame, and its place, whether it is the interpreter's. What does not fit is kept on both
/// sides, and said.
pub fn merge(
    user: Vec<UserFrame>,
    part: &[UserFrame],
    whole: Whole,
    is_eval: impl Fn(usize, &UserFrame) -> bool,
) -> (Vec<Place>, Whole) {
    let evals = user.iter().enumerate().filter(|(at, f)| is_eval(*at, f)).count();
    let is_leaf = user.first().is_some_and(|f| is_eval(0, f));
    if part.is_empty() {
        let whole = if evals > 0 && whole == Whole::Whole { Whole::Python } else { whole };
        return (user.into_iter().map(Place::Code).collect(), whole);
    }
    let (calls, end) = calls(part);
    // Of two lists that are whole the outermost belong together: the interpreter may have
    // been struck before it has put a frame on its list, or after it took it off.
    let both = end == mark::END && whole == Whole::Whole;
    let skip = if both { evals.saturating_sub(calls.len()) } else { 0 };
    let fits = both && calls.len() <= evals && (skip == 0 || skip == 1 && is_leaf)
        || end == mark::NO_THREAD && evals == 0;
    let whole = match (whole, end) {
        (Whole::Whole, mark::CUT) => Whole::Depth,
        (Whole::Whole, _) if !fits => Whole::Python,
        _ => whole,
    };
    let mut places = Vec::with_capacity(user.len() + part.len());
    let mut calls = calls.into_iter();
    let mut eval = 0;
    for (at, frame) in user.into_iter().enumerate() {
        let mut call = None;
        if is_eval(at, &frame) {
            call = if eval < skip { None } else { calls.next() };
            eval += 1;
        }
        match call.filter(|call| !call.is_empty()) {
            Some(call) => places.extend(call.into_iter().map(Place::Python)),
            None => places.push(Place::Code(frame)),
        }
    }
    places.extend(calls.flatten().map(Place::Python));
    (places, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVAL: u64 = 1000;

    /// A stack, leaf first: `e` is the interpreter, others are C.
    fn stack(s: &str) -> Vec<UserFrame> {
        let offset = |c| if c == 'e' { EVAL } else { u64::from(u32::from(c)) };
        s.chars().map(|c| UserFrame { file: 3, offset: offset(c) }).collect()
    }

    /// Python's part, leaf first: a capital was called from C, `|` ends a call, the last
    /// is how it ends.
    fn part(s: &str, end: u64) -> Vec<UserFrame> {
        let number = |c: char| match c {
            '|' => mark::CALL,
            c if c.is_ascii_uppercase() => u64::from(u32::from(c)) | ENTRY,
            c => u64::from(u32::from(c)),
        };
        let word = |offset| UserFrame { file: FILE_PYTHON, offset };
        s.chars().map(|c| word(number(c))).chain([word(end)]).collect()
    }

    /// `[x]` is Python's.
    fn merged(user: &str, p: &[UserFrame], whole: Whole) -> (String, Whole) {
        let (places, whole) = merge(stack(user), p, whole, |_, f| f.offset == EVAL);
        let letter = |n: u64| char::from_u32(n as u32).unwrap();
        let one = |p: Place| match p {
            Place::Code(f) if f.offset == EVAL => "e".to_owned(),
            Place::Code(f) => letter(f.offset).to_string(),
            Place::Python(n) => format!("[{}]", letter(n)),
        };
        (places.into_iter().map(one).collect(), whole)
    }

    #[test]
    fn frames_stand_where_the_interpreter_does() {
        use Whole::Whole as W;
        let m = |user, p, end| merged(user, &part(p, end), W);
        assert_eq!(m("xeyez", "abCD", mark::END), ("x[a][b][C]y[D]z".into(), W));
        assert_eq!(m("xeyez", "ab|c|", mark::END), ("x[a][b]y[c]z".into(), W));
        // Struck where the interpreter has just been called.
        assert_eq!(m("eyez", "A", mark::END), ("ey[A]z".into(), W));
        assert_eq!(m("eyez", "|a|", mark::END), ("ey[a]z".into(), W));
        assert_eq!(m("xz", "", mark::END), ("xz".into(), W));
        assert_eq!(m("xz", "", mark::NO_THREAD), ("xz".into(), W));
    }

    #[test]
    fn what_does_not_fit_is_kept_and_said() {
        use Whole::Python as P;
        use Whole::Whole as W;
        let m = |user, p, end| merged(user, &part(p, end), W);
        assert_eq!(m("xeyez", "A", mark::END), ("xey[A]z".into(), P));
        assert_eq!(m("xez", "ABc", mark::END), ("x[A]z[B][c]".into(), P));
        assert_eq!(m("xez", "", mark::NO_THREAD), ("xez".into(), P));
        assert_eq!(m("xeyez", "Ab", mark::UNREADABLE), ("x[A]y[b]z".into(), P));
        assert_eq!(merged("xez", &[], W), ("xez".into(), P), "nothing was read");
        assert_eq!(merged("xz", &[], W), ("xz".into(), W), "nothing was there");
    }

    #[test]
    fn what_is_cut_belongs_together_from_the_leaf_on() {
        let m = |user, p, end, whole| merged(user, &part(p, end), whole);
        let cut = m("xeyez", "Ab", mark::CUT, Whole::Whole);
        assert_eq!(cut, ("x[A]y[b]z".into(), Whole::Depth));
        let cut = m("xey", "ABC", mark::END, Whole::Depth);
        assert_eq!(cut, ("x[A]y[B][C]".into(), Whole::Depth));
        let broken = m("xeye", "A", mark::END, Whole::NoRow);
        assert_eq!(broken, ("x[A]ye".into(), Whole::NoRow));
    }

    #[test]
    fn a_part_is_taken_off_whatever_it_is() {
        let mut user = stack("xe");
        user.extend(part("A", mark::END));
        let p = split(&mut user);
        assert_eq!((user, p.len()), (stack("xe"), 2));
        assert_eq!(calls(&[]), (vec![], mark::UNREADABLE));
        assert_eq!(calls(&part("ab", 15)), (vec![vec![97, 98]], 15));
    }
}
