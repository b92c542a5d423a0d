package mvcc

type hub struct{}

func newHub() *hub { return &hub{} }

func (h *hub) notify(t *tail, from, to int64) {}

func (h *hub) size() (int64, int64) { return 0, 0 }
