//! The page in French. Only sentences.

use super::{Said, Texts};

pub(super) const TEXTS: Texts = Texts {
    away: Said {
        title: "Nous revenons tout de suite",
        lead: "Le service est momentanément injoignable. Vous n’y êtes pour rien.",
    },
    busy: Said {
        title: "Beaucoup de monde en ce moment",
        lead: "Il y a plus de visiteurs que nous ne pouvons en servir à la fois. Ce sera bientôt votre tour.",
    },
    late: Said {
        title: "La réponse se fait attendre",
        lead: "Le service n’a pas répondu à temps. Il est sans doute très sollicité ou en train de redémarrer.",
    },
    nothing_here: Said { title: "Il n’y a rien ici", lead: "Veuillez vérifier l’adresse." },
    too_large: Said {
        title: "L’envoi est trop volumineux",
        lead: "Votre envoi dépasse ce que ce service accepte. Veuillez envoyer moins à la fois.",
    },
    address_too_long: Said {
        title: "L’adresse est trop longue",
        lead: "Veuillez raccourcir l’adresse et réessayer.",
    },
    not_whole: Said {
        title: "La demande n’est pas arrivée en entier",
        lead: "Votre connexion est peut-être lente ou instable. Veuillez la renvoyer.",
    },
    not_understood: Said {
        title: "Cette demande n’est pas compréhensible",
        lead: "Elle contient une anomalie. Veuillez recommencer.",
    },
    not_stored: "Rien n’a été enregistré : votre saisie n’a pas été transmise.",
    perhaps_stored: "Nous ne le savons pas : votre saisie a peut-être été enregistrée. Veuillez vérifier avant de la ressaisir.",
    perhaps_stored_with_key: "Nous ne le savons pas : votre saisie a peut-être été enregistrée. Réessayer avec la même clé est sans risque.",
    comes_back: "Cette page se rétablit d’elle-même dès que le service est de retour.",
    entry_kept: "Votre saisie est conservée sur cette page, et nulle part ailleurs. Veuillez la laisser ouverte.",
    entry_not_kept: "Pour renvoyer votre saisie, attendez quelques secondes et rechargez cette page. Ou revenez en arrière : votre texte y est en général encore.",
    is_back: "Le service est de retour.",
    try_now: "Réessayer maintenant",
    entered: "Votre saisie",
    left_out: "Les mots de passe et données semblables ne sont pas conservés. Veuillez les ressaisir.",
    send_again: "Renvoyer",
    reference: "Référence pour l’assistance",
};
