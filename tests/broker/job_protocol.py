"""The protocol of most broker tests: a job with a stream, a deadline, progress and every kind of interrupt."""

JOB = """
language: 1
protocol: job
version: 1.0.0
defaults: {delivery: durable}
roles: {client: {}, worker: {pool: true}}
messages:
  Ask: {}
  Part: {delivery: at-least-once, window: 50}
  Note: {delivery: at-most-once}
  Answer: {}
  Stop: {}
  Stopped: {}
outcomes:
  answered: There is an answer.
  late: It came too late.
  stopped: The client had enough.
  broken: The worker could not.
  orphaned: There is no worker any more.
  expired: It took too long altogether.
conversation:
  - client -> worker: Ask
  - scope: work
    do:
      - loop: steps
        do:
          - choice: worker
            within: 10m
            branches:
              note: [worker -> client: Note]
              part: [worker -> client: Part]
              answer:
                - worker -> client: Answer
                - end: answered
            else: [{end: late}]
    interrupts:
      - client -> worker: Stop
        then:
          - worker -> client: Stopped
            within: 30s
            else: [{end: late}]
          - end: stopped
      - failed: worker
        then: [{end: broken}]
      - lost: worker
        then: [{end: orphaned}]
      - timeout: 2h
        then: [{end: expired}]
"""
