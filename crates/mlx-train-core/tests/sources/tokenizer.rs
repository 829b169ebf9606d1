//! Text to tokens and back.

use crate::{file, refusal};
use mlx_train_core::data::{Text, Tokenizer};
use proptest::prelude::*;
use std::{fs, path::PathBuf, sync::LazyLock};
use tempfile::TempDir;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder, models::bpe::BPE, models::bpe::BpeTrainer,
    pre_tokenizers::byte_level::ByteLevel,
};

/// GPT-2's kind of tokenizer, with a few merges, in a folder.
pub static BYTE_LEVEL: LazyLock<(TempDir, PathBuf)> =
    LazyLock::new(|| file("tokenizer.json", byte_level()));

fn byte_level() -> String {
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_normalizer(None)
    .with_pre_tokenizer(Some(ByteLevel::new(false, true, true).into()))
    .with_post_processor(None)
    .with_decoder(Some(ByteLevel::default().into()))
    .build()
    .unwrap();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(300)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .build();
    let text = "the cat and the hat and the other thing that the cat ate";
    tokenizer.train(&mut trainer, [text; 4].iter()).unwrap();
    tokenizer.to_string(false).unwrap()
}

fn open() -> Tokenizer {
    Tokenizer::open(&BYTE_LEVEL.1).unwrap()
}

proptest! {
    #[test]
    fn any_text_is_the_text_of_its_tokens(text: String) {
        for tokenizer in [Tokenizer::bytes(), open()] {
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert!(tokens.iter().all(|&token| token < tokenizer.vocab_size()));
            prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), &text[..]);
        }
    }

    #[test]
    fn text_that_comes_token_by_token_is_the_text_of_all(text in "[a-z é猫🙂]{0,40}") {
        for tokenizer in [Tokenizer::bytes(), open()] {
            let mut decoder = tokenizer.decoder();
            let mut bytes = Vec::new();
            for token in tokenizer.encode(&text).unwrap() {
                bytes.extend(decoder.push(token).unwrap());
            }
            bytes.extend(decoder.finish().unwrap());
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), &text[..]);
        }
    }
}

#[test]
fn merges_make_fewer_tokens_than_bytes() {
    let tokens = open().encode("the cat and the hat").unwrap();
    assert!(tokens.len() < 10, "{tokens:?}");
}

#[test]
fn an_unfinished_character_is_not_lost() {
    let tokenizer = open();
    let tokens = tokenizer.encode("🙂").unwrap();
    assert!(tokens.len() > 1, "no merge of the test covers it");
    assert_eq!(tokenizer.decode(&tokens[..tokens.len() - 1]).unwrap(), "\u{fffd}");
}

#[test]
fn the_end_of_a_text_has_the_usual_name_or_the_one_beside_the_file() {
    assert_eq!(open().eos(), Some(0));
    assert_eq!(open().bos(), None);
    assert_eq!(open().encode("<|endoftext|>").unwrap(), [0]);

    let (folder, path) = file("tokenizer.json", byte_level());
    let config = folder.path().join("tokenizer_config.json");
    fs::write(&config, r#"{"eos_token": {"content": "a"}, "bos_token": null}"#).unwrap();
    let named = Tokenizer::open(&path).unwrap();
    assert_eq!(named.eos(), Some(named.encode("a").unwrap()[0]));
    assert_ne!(named.fingerprint(), open().fingerprint(), "the same text has other tokens");

    fs::write(&config, r#"{"eos_token": "<none>"}"#).unwrap();
    refusal(Tokenizer::open(&path), &config, &["`eos_token`", "<none>"]);
}

#[test]
fn a_saved_tokenizer_is_the_same_one_and_replaces_no_other_unasked() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokenizer.json");
    for (tokenizer, other) in [(Tokenizer::bytes(), open()), (open(), Tokenizer::bytes())] {
        tokenizer.save(folder.path(), true).unwrap();
        let again = Tokenizer::of_folder(folder.path()).unwrap();
        assert_eq!(again.fingerprint(), tokenizer.fingerprint());
        assert_eq!(again.eos(), tokenizer.eos());
        if !tokenizer.is_bytes() {
            refusal(other.save(folder.path(), false), &file, &["another tokenizer", "--force"]);
        }
        tokenizer.save(folder.path(), false).unwrap();
    }
    // What else the user's file says stays.
    let config = folder.path().join("tokenizer_config.json");
    let text = r#"{"eos_token": "<|endoftext|>", "chat_template": "…"}"#;
    fs::write(&config, text).unwrap();
    open().save(folder.path(), true).unwrap();
    assert_eq!(fs::read_to_string(&config).unwrap(), text);
}

#[test]
fn what_is_no_tokenizer_is_refused_by_name() {
    for (content, expected) in [
        ("", "describes no tokenizer"),
        ("{}", "describes no tokenizer"),
        ("\u{0}\u{1}", "describes no tokenizer"),
        (&byte_level().replace("\"dropout\":null", "\"dropout\":0.1"), "`dropout` is 0.1"),
    ] {
        let (_folder, path) = file("tokenizer.json", content);
        refusal(Tokenizer::open(&path), &path, &[expected]);
    }
}

#[test]
fn a_token_of_another_tokenizer_is_refused() {
    for tokenizer in [Tokenizer::bytes(), open()] {
        let size = tokenizer.vocab_size();
        let message = tokenizer.decode(&[size]).unwrap_err().to_string();
        assert!(message.contains(&format!("token {size} is not one of")), "{message}");
    }
}

#[test]
fn a_text_is_one_document_that_ends_in_the_token_for_that() {
    let tokens = Text::new("the cat", "a test").encode(&open()).unwrap();
    let document = tokens.get(tokens.document(0).unwrap()).unwrap();
    assert_eq!(document.last(), Some(&0));
    assert_eq!((tokens.num_documents(), document.len()), (1, tokens.len()));

    let latin = Text::new(&b"caf\xe9"[..], "latin.txt");
    let message = latin.encode(&open()).unwrap_err().to_string();
    assert!(message.contains("latin.txt is not UTF-8 from byte 3 on"), "{message}");
    assert_eq!(latin.encode(&Tokenizer::bytes()).unwrap().len(), 4);
}
