//! The page in English. Only sentences.

use super::{Said, Texts};

pub(super) const TEXTS: Texts = Texts {
    away: Said {
        title: "We will be right back",
        lead: "The service cannot be reached at the moment. This is not your fault.",
    },
    busy: Said {
        title: "Very busy right now",
        lead: "More people are here than we can serve at once. Your turn will come shortly.",
    },
    late: Said {
        title: "This is taking too long",
        lead: "The service did not answer in time. It is probably busy or restarting.",
    },
    nothing_here: Said { title: "There is nothing here", lead: "Please check the address." },
    too_large: Said {
        title: "That is too large",
        lead: "What you sent is larger than this service accepts. Please send less at once.",
    },
    address_too_long: Said {
        title: "The address is too long",
        lead: "Please shorten the address and try again.",
    },
    not_whole: Said {
        title: "The request did not arrive whole",
        lead: "Your connection may be slow or unstable. Please send it again.",
    },
    not_understood: Said {
        title: "This request cannot be understood",
        lead: "Something about it is not as it should be. Please start again.",
    },
    not_stored: "Nothing was stored: your entry was never passed on.",
    perhaps_stored: "We cannot tell; your entry may have been stored. Please look before you enter it again.",
    perhaps_stored_with_key: "We cannot tell; your entry may have been stored. Trying again with the same key is safe.",
    comes_back: "This page comes back by itself as soon as the service does.",
    entry_kept: "What you entered is kept on this page, and nowhere else. Please leave it open.",
    entry_not_kept: "To send your entry again, wait a few seconds and reload this page. Or go back; your text is usually still there.",
    is_back: "The service is back.",
    try_now: "Try again now",
    entered: "What you entered",
    left_out: "Passwords and the like are not kept. Please enter them again.",
    send_again: "Send again",
    reference: "Reference for support",
};
