"""Queue and actor names shared by the sender of a wake-up and the worker that hears it."""

#: Dramatiq queue of the improvement worker (the published name).
IMPROVEMENT_QUEUE = "improvement_worker"
#: Actor that works through the improvement queue; its messages carry nothing, Mongo holds the work.
IMPROVE_ACTOR = "improvement_worker"
#: Dramatiq queue of green builds, and the actor that does what is due of them; likewise.
BUILDS_QUEUE = BUILD_ACTOR = "builds"
#: Dramatiq queue of the two towers, and the actor that trains and publishes what is due of them; likewise.
TOWERS_QUEUE = TOWERS_ACTOR = "towers"
