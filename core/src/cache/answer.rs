//! Answers as bytes: what the cache stores, and how a type of the service becomes it. It stores nothing itself.

use bytes::Bytes;

/// An answer that can be stored: to bytes and back.
pub trait Cacheable: Sized {
    /// The bytes to store.
    fn encode(&self) -> Bytes;
    /// The answer again, or `None` where the bytes are not one.
    fn decode(bytes: &Bytes) -> Option<Self>;
}

/// An answer that is bytes already, such as a rendered JSON document, is stored without a copy.
impl Cacheable for Bytes {
    fn encode(&self) -> Bytes {
        self.clone()
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        Some(bytes.clone())
    }
}

/// Any serde type as a cacheable answer, stored as JSON.
#[cfg(feature = "serde")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json<T>(pub T);

#[cfg(feature = "serde")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Cacheable for Json<T> {
    fn encode(&self) -> Bytes {
        // A type that cannot be written as JSON is stored as nothing and so never served.
        serde_json::to_vec(&self.0).unwrap_or_default().into()
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Json)
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[test]
    fn json_answers_survive_the_round_trip_and_garbage_is_no_answer() {
        let answer = Json(vec![1, 2, 3]);
        assert_eq!(Json::decode(&answer.encode()), Some(answer));
        assert_eq!(Json::<Vec<i32>>::decode(&Bytes::from_static(b"{")), None);
    }
}
