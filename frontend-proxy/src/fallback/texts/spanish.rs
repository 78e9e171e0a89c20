//! The page in Spanish. Only sentences.

use super::{Said, Texts};

pub(super) const TEXTS: Texts = Texts {
    away: Said {
        title: "Volvemos enseguida",
        lead: "No se puede acceder al servicio en este momento. No es culpa suya.",
    },
    busy: Said {
        title: "Hay mucha gente ahora mismo",
        lead: "Hay más personas de las que podemos atender a la vez. Pronto será su turno.",
    },
    late: Said {
        title: "Está tardando demasiado",
        lead: "El servicio no ha respondido a tiempo. Probablemente está muy ocupado o se está reiniciando.",
    },
    nothing_here: Said { title: "Aquí no hay nada", lead: "Compruebe la dirección, por favor." },
    too_large: Said {
        title: "Es demasiado grande",
        lead: "Lo que ha enviado supera lo que admite este servicio. Envíe menos de una vez, por favor.",
    },
    address_too_long: Said {
        title: "La dirección es demasiado larga",
        lead: "Acorte la dirección e inténtelo de nuevo, por favor.",
    },
    not_whole: Said {
        title: "La solicitud no ha llegado completa",
        lead: "Puede que su conexión sea lenta o inestable. Envíela de nuevo, por favor.",
    },
    not_understood: Said {
        title: "No se entiende esta solicitud",
        lead: "Hay algo en ella que no es correcto. Empiece de nuevo, por favor.",
    },
    not_stored: "No se ha guardado nada: sus datos no se han transmitido.",
    perhaps_stored: "No lo sabemos; puede que sus datos se hayan guardado. Compruébelo antes de volver a introducirlos.",
    perhaps_stored_with_key: "No lo sabemos; puede que sus datos se hayan guardado. Es seguro intentarlo de nuevo con la misma clave.",
    comes_back: "Esta página vuelve por sí sola en cuanto lo haga el servicio.",
    entry_kept: "Sus datos se conservan en esta página y en ningún otro lugar. Déjela abierta, por favor.",
    entry_not_kept: "Para enviar sus datos de nuevo, espere unos segundos y recargue esta página. O vuelva atrás: su texto suele seguir ahí.",
    is_back: "El servicio ha vuelto.",
    try_now: "Intentar de nuevo ahora",
    entered: "Sus datos",
    left_out: "Las contraseñas y datos similares no se conservan. Introdúzcalos de nuevo, por favor.",
    send_again: "Enviar de nuevo",
    reference: "Referencia para asistencia",
};
