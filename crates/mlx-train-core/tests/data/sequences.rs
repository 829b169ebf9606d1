//! Documents of any length: padded rows, packed rows, and what counts in them.

use crate::ints;
use mlx_train_core::data::{Batch, Dataset, IGNORED_TARGET, Packing, Padding, Sequences};
use proptest::prelude::*;

/// Documents of these lengths in which every token is its own number: the next of one is one more.
fn numbered(lengths: &[usize]) -> Sequences {
    let mut next = 0..;
    let documents: Vec<Vec<u32>> =
        lengths.iter().map(|&length| next.by_ref().take(length).collect()).collect();
    Sequences::from_vecs(&documents, 10_000, "a test").unwrap()
}

/// Each document of a number of tokens, and its first token.
fn documents(lengths: &[usize]) -> impl Iterator<Item = (i32, i32)> {
    let starts =
        lengths.iter().scan(0, |start, &length| Some(std::mem::replace(start, *start + length)));
    starts.zip(lengths).map(|(start, &length)| (start as i32, length as i32))
}

fn whole(dataset: &impl Dataset) -> Batch {
    dataset.batch(&(0..dataset.len()).collect::<Vec<_>>()).unwrap()
}

fn packings() -> impl Strategy<Value = Packing> {
    prop_oneof![Just(Packing::InOrder), Just(Packing::BestFit)]
}

proptest! {
    #[test]
    fn packing_keeps_every_prediction_once_and_never_mixes_documents(
        lengths in prop::collection::vec(1_usize..30, 1..40), seq_len in 1_usize..20, packing in packings(),
    ) {
        let Ok(packed) = numbered(&lengths).packed(seq_len, packing) else {
            prop_assert!(lengths.iter().all(|&length| length == 1));
            return Ok(());
        };
        let batch = whole(&packed);
        prop_assert_eq!(batch.x.shape(), [packed.len() as i32, seq_len as i32]);
        let (x, y) = (ints(&batch.x), ints(&batch.y));
        let segments = ints(&batch.segments.unwrap());
        prop_assert!([&x, &y].iter().all(|part| part.len() == segments.len()));

        let document_of = |token: i32| documents(&lengths).find(|(start, len)| (*start..start + len).contains(&token));
        let mut predicted = Vec::new();
        for row in 0..packed.len() {
            let positions = row * seq_len..(row + 1) * seq_len;
            for at in positions.clone() {
                if segments[at] == -1 {
                    // Padding comes last, and counts for nothing.
                    prop_assert_eq!((x[at], y[at]), (0, IGNORED_TARGET));
                    prop_assert!(segments[at..positions.end].iter().all(|&segment| segment == -1));
                    continue;
                }
                predicted.push(y[at]);
                prop_assert_eq!(y[at], x[at] + 1);
                prop_assert_eq!(document_of(x[at]), document_of(y[at]));
                if at > positions.start {
                    // One segment goes on with the next token; another one is another document.
                    let follows = x[at] == x[at - 1] + 1;
                    let same = segments[at] == segments[at - 1];
                    prop_assert_eq!(same, follows && document_of(x[at]) == document_of(x[at - 1]));
                    prop_assert!(same || segments[at] == segments[at - 1] + 1);
                } else {
                    prop_assert_eq!(segments[at], 0);
                }
            }
        }
        let share = predicted.len() as f64 / segments.len() as f64;
        prop_assert!((packed.filled() - share).abs() < 1e-12);
        if packing == Packing::InOrder {
            prop_assert!(predicted.is_sorted());
            prop_assert!(segments.len() - predicted.len() < seq_len);
        }
        predicted.sort_unstable();
        let every: Vec<i32> =
            documents(&lengths).flat_map(|(start, length)| start + 1..start + length).collect();
        prop_assert_eq!(predicted, every);
    }

    #[test]
    fn best_fit_splits_no_document_that_fits_a_row_and_wastes_less_than_half(
        lengths in prop::collection::vec(2_usize..40, 1..60), seq_len in 1_usize..20,
    ) {
        let packed = numbered(&lengths).packed(seq_len, Packing::BestFit).unwrap();
        let x = ints(&whole(&packed).x);
        for (start, length) in documents(&lengths) {
            let first = x.iter().position(|&token| token == start && token != 0);
            if let Some(first) = first.filter(|_| length - 1 <= seq_len as i32) {
                let tokens: Vec<i32> = (start..start + length - 1).collect();
                prop_assert_eq!(&x[first..first + tokens.len()], &tokens);
                prop_assert_eq!(first / seq_len, (first + tokens.len() - 1) / seq_len);
            }
        }
        // At most one row is half empty: the last pieces of two such rows would have shared one.
        let room = (packed.len() - 1) as f64 * seq_len as f64 / 2.0;
        prop_assert!(packed.filled() * packed.len() as f64 * seq_len as f64 >= room);
    }

    #[test]
    fn padding_masks_what_is_no_prediction_and_keeps_the_rest(
        lengths in prop::collection::vec(1_usize..30, 1..9), multiple in 1_usize..9,
    ) {
        let longest = lengths.iter().max().unwrap() - 1;
        let sequences = numbered(&lengths);
        for (padding, seq_len) in [
            (Padding::Longest, longest.max(1)),
            (Padding::Multiple(multiple), longest.max(1).next_multiple_of(multiple)),
            (Padding::Buckets(vec![64, 8, 29]), if longest <= 8 { 8 } else { 29 }),
        ] {
            let Batch { x, y, segments, .. } = whole(&sequences.padded(padding).unwrap());
            prop_assert!(segments.is_none());
            prop_assert_eq!(x.shape(), [lengths.len() as i32, seq_len as i32]);
            let (x, y) = (ints(&x), ints(&y));
            for (row, (start, length)) in documents(&lengths).enumerate() {
                let at = row * seq_len;
                let (end, row_end) = (at + length as usize - 1, at + seq_len);
                prop_assert!(x[at..end].iter().copied().eq(start..start + length - 1));
                prop_assert!(y[at..end].iter().copied().eq(start + 1..start + length));
                prop_assert!(x[end..row_end].iter().all(|&token| token == 0));
                prop_assert!(y[end..row_end].iter().all(|&target| target == IGNORED_TARGET));
            }
        }
    }
}

#[test]
fn best_fit_leaves_room_for_what_fits_nowhere_else() {
    // Of 7, 6, 3, 2 and 2 predictions the 3 fit beside either of the first: beside 6 they would leave
    // no room for both of the last.
    let packed = numbered(&[3, 8, 4, 7, 3]).packed(10, Packing::BestFit).unwrap();
    assert_eq!(packed.len(), 2);
    assert!((packed.filled() - 1.0).abs() < 1e-12);
}

#[test]
fn the_loss_mask_and_truncation_follow_their_tokens_into_every_row() {
    // Documents 0 1 2 3, 4 5 and 6 7 8; 2, 5 and 6 are learned, and 6 is nobody's target.
    let mask: Vec<bool> = (0..9).map(|token| [2, 5, 6].contains(&token)).collect();
    let sequences = numbered(&[4, 2, 3]).with_loss_mask(mask).unwrap();
    let ignored = IGNORED_TARGET;
    let padded = whole(&sequences.padded(Padding::Longest).unwrap());
    let rows = [[ignored, 2, ignored], [5, ignored, ignored], [ignored; 3]];
    assert_eq!(ints(&padded.y), rows.concat());
    let packed = whole(&sequences.packed(4, Packing::InOrder).unwrap());
    assert_eq!(ints(&packed.x), [0, 1, 2, 4, 6, 7, 0, 0]);
    assert_eq!(ints(&packed.y), [ignored, 2, ignored, 5, ignored, ignored, ignored, ignored]);
    assert_eq!(ints(&packed.segments.unwrap()), [0, 0, 0, 1, 0, 0, -1, -1]);

    let short = sequences.truncated(3);
    assert_eq!(ints(&whole(&short.padded(Padding::Longest).unwrap()).x), [0, 1, 4, 0, 6, 7]);
    let packed = whole(&short.packed(3, Packing::BestFit).unwrap());
    assert_eq!(ints(&packed.x), [0, 1, 0, 6, 7, 4]);
}

#[test]
fn sequences_that_cannot_be_rows_are_refused() {
    let sequences = numbered(&[1, 9, 3]);
    let padded = |padding| sequences.padded(padding).unwrap_err().to_string();
    let message = padded(Padding::Buckets(vec![4, 7]));
    assert!(
        message.contains("document 1 has 8 predictions, and the largest bucket is 7"),
        "{message}"
    );
    assert!(message.contains("truncate documents to 8 tokens"), "{message}");
    assert!(padded(Padding::Multiple(0)).contains("at least 1"));
    assert!(sequences.clone().truncated(8).padded(Padding::Buckets(vec![4, 7])).is_ok());

    let packed = |sequences: &Sequences, seq_len| {
        sequences.packed(seq_len, Packing::InOrder).unwrap_err().to_string()
    };
    assert!(packed(&sequences, 0).contains("sequence length 0"));
    assert!(packed(&numbered(&[1, 1]), 4).contains("no document of at least two tokens"));
    assert!(packed(&numbered(&[]), 4).contains("no document of at least two tokens"));

    let message = sequences.clone().with_loss_mask(vec![true; 12]).unwrap_err().to_string();
    assert!(message.contains("12 tokens does not fit the 13 tokens of a test"), "{message}");
    assert!(Sequences::from_vecs(&[vec![1], vec![]], 9, "a test").is_err());
}
