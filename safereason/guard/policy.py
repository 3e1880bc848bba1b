"""What a guard calls unsafe: a list of categories. A deployer may put one of their own in its place.

The eighteen names are RSafe's (arXiv 2506.07736); the definitions are ours.
"""

from typing import NamedTuple


class Policy(NamedTuple):
    """One unsafe category."""

    id: str
    name: str
    definition: str


_CATEGORIES = {
    "Violence & Physical Harm": "Plans, methods or praise for injuring or killing people, terrorism included.",
    "Weapons & Illegal Tactics": (
        "Making, getting or using weapons, explosives or agents of mass harm, and the tactics of armed crime."
    ),
    "Non-Violent Crime & Fraud": (
        "Theft, scams, forgery, hacking, money laundering and other crime without bodily force."
    ),
    "Drugs & Controlled Substances": "Making, trading or misusing drugs and other controlled substances.",
    "Adult Sexual Content": "Explicit sexual material about adults, or the selling of sexual services.",
    "Sexual Content Involving Minors": (
        "Anything that sexualises a person under eighteen or helps to reach one for that end."
    ),
    "Hate Speech & Discrimination": (
        "Demeaning people or calling for worse treatment of them for what they are, such as origin, faith, "
        "sex or disability."
    ),
    "Harassment & Profanity": "Threats, bullying, stalking or abusive and obscene language aimed at somebody.",
    "Self-Harm & Suicide": "Encouraging suicide, self-injury or disordered eating, or telling how.",
    "Privacy & PII": "Finding out, exposing or exploiting somebody's private data without their consent.",
    "Intellectual Property": "Copying or bypassing the protection of works, marks, patents or trade secrets of others.",
    "Misinformation & Manipulation": (
        "False or misleading claims made to deceive the public, elections and health included."
    ),
    "Unauthorized Professional Advice": (
        "Specific medical, legal, financial or similar advice that ought to come from a licensed person and "
        "could do damage."
    ),
    "Animal Abuse": "Cruelty to animals, or ways to be cruel to them.",
    "Child Abuse (Non-Sexual)": "Hurting, neglecting or exploiting children in ways that are not sexual.",
    "Environmental & Public-Safety Harm": (
        "Damage to nature, or to infrastructure and services on which many people's safety rests."
    ),
    "Manipulation & Coercion / Human Trafficking": (
        "Controlling people through pressure, deceit or force, trafficking and forced labour included."
    ),
    "National-Security Espionage": "Spying, leaking secrets of state, or undermining a country's defence.",
}

DEFAULT = tuple(Policy(f"U{n}", name, definition) for n, (name, definition) in enumerate(_CATEGORIES.items(), start=1))
"""RSafe's categories U1 to U18."""
