package courier

// The loss average reaches back about lossReach datagrams: enough to tell 1 % from 5 %.
const lossReach = 150

// Levels of redundancy: each is entered at one loss and left at half of it.
var enterLevel = [...]float64{0, 0.003, 0.03, 0.08}

const (
	levelPlain  = 0 // one copy
	levelTwo    = 1 // two of what matters
	levelRepeat = 2 // and the last messages again
	levelThree  = 3 // three
)

// Runs of losses: of the datagrams lost, the share whose predecessor was lost too. 10 % of independent losses make it
// 0.1, runs of four 0.75.
const (
	runsReach = 12
	runsEnter = 0.4
	runsLeave = 0.2
)

// lossMeter measures what becomes of datagrams.
type lossMeter struct {
	share  float64 // moving average of lost ones
	runs   float64 // moving average, over lost ones, of those whose predecessor was lost
	level  int
	bursty bool
}

func (m *lossMeter) arrived() { m.note(0) }

func (m *lossMeter) lost(afterLost bool) {
	m.note(1)
	v := 0.0
	if afterLost {
		v = 1
	}
	m.runs += (v - m.runs) / runsReach
	switch {
	case m.runs > runsEnter:
		m.bursty = true
	case m.runs < runsLeave:
		m.bursty = false
	}
}

func (m *lossMeter) note(v float64) {
	m.share += (v - m.share) / lossReach
	for m.level < levelThree && m.share >= enterLevel[m.level+1] {
		m.level++
	}
	for m.level > levelPlain && m.share < enterLevel[m.level]/2 {
		m.level--
	}
}

// copies is how often what matters is sent from the start.
func (m *lossMeter) copies() int {
	n := [...]int{1, 2, 2, 3}[m.level]
	if m.bursty && n > 1 {
		n = 3
	}
	return n
}
