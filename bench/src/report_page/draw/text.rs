//! How much room text takes, without a font at hand: letters are as wide as those of common sans-serif fonts are on average, and a
//! little more.

/// A kind of letters, by what one takes in width. Their sizes stand in the style sheet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letters(f64);

/// Letters of a heading: 13, bold.
pub(super) const HEADING: Letters = Letters(7.6);

/// Letters of a note: 11.
pub(super) const NOTE: Letters = Letters(6.1);

/// Letters beside axes, curves and bars: 11.
pub(super) const LABEL: Letters = Letters(6.4);

/// Width of a text.
pub(super) fn width(text: &str, letters: Letters) -> f64 {
    text.chars().count() as f64 * letters.0
}

/// A text that fits: its end gives way to an ellipsis.
pub(super) fn shortened(text: &str, room: f64, letters: Letters) -> String {
    let text = clean(text);
    let fits = (room / letters.0).floor().max(1.0) as usize;
    if text.chars().count() <= fits { text } else { text.chars().take(fits - 1).chain(['…']).collect() }
}

/// Without the characters that XML does not have, whatever the file a text comes from holds.
pub(super) fn clean(text: &str) -> String {
    let forbidden = |letter: char| letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}');
    text.chars().map(|letter| if forbidden(letter) { '\u{fffd}' } else { letter }).collect()
}

/// Moves labels apart that would overlap: their wanted places, in any order, to places at least `gap` from each other between
/// `top` and `bottom` (where there is room for all), each as near to the wanted one as the others let it.
pub(super) fn apart(wanted: &[f64], gap: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|one, other| wanted[*one].total_cmp(&wanted[*other]));
    // Groups of labels that touch: the mean of where they want to be, less each one's offset, and how many they are.
    let mut groups: Vec<(f64, usize)> = Vec::new();
    for &label in &order {
        groups.push((wanted[label], 1));
        while let [.., (above, many), (below, more)] = groups[..]
            && above + gap * many as f64 > below
        {
            let both = many + more;
            let first = (above * many as f64 + (below - gap * many as f64) * more as f64) / both as f64;
            groups.truncate(groups.len() - 2);
            groups.push((first, both));
        }
    }
    let mut places: Vec<f64> =
        groups.iter().flat_map(|(first, many)| (0..*many).map(move |at| first + gap * at as f64)).collect();
    let mut least = top;
    for place in &mut places {
        *place = place.max(least);
        least = *place + gap;
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - gap;
    }
    let mut result = vec![0.0; wanted.len()];
    for (place, label) in places.into_iter().zip(order) {
        result[label] = place;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_text_ends_in_an_ellipsis_and_control_characters_do_not_get_through() {
        assert_eq!(shortened("a\u{0}b", 100.0, LABEL), "a\u{fffd}b");
        assert_eq!(shortened("0123456789", 5.0 * LABEL.0, LABEL), "0123…");
    }

    #[test]
    fn labels_with_room_stay_and_others_give_way_evenly() {
        assert_eq!(apart(&[50.0, 10.0], 12.0, 0.0, 100.0), [50.0, 10.0]);
        assert_eq!(apart(&[50.0, 50.0], 12.0, 0.0, 100.0), [44.0, 56.0]);
        assert_eq!(apart(&[100.0, 99.0], 12.0, 0.0, 100.0), [100.0, 88.0]);
    }

    proptest! {
        #[test]
        fn labels_never_overlap_where_there_is_room(wanted in proptest::collection::vec(0.0..200.0_f64, 0..16)) {
            let mut places = apart(&wanted, 12.0, 0.0, 200.0);
            places.sort_by(f64::total_cmp);
            prop_assert!(places.windows(2).all(|pair| pair[1] - pair[0] > 11.999), "{places:?}");
            prop_assert!(places.iter().all(|place| (-0.001..200.001).contains(place)), "{places:?}");
        }
    }
}
