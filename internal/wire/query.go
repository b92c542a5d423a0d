package wire

import (
	"time"

	"holdfast/kv"
)

const (
	queryBy byte = 1 << iota
	queryLocalOnly
	queryToken
	queryFlags = queryBy | queryLocalOnly | queryToken
)

// AppendQuery appends the encoding of q to dst. It panics where AppendCommand does; see CheckQuery.
func AppendQuery(dst []byte, q kv.Query) []byte {
	dst = appendStart(dst, kindQuery)
	hasBy, hasToken := q.By.Named() != kv.By{}, q.By.Token != ""
	dst = append(dst, bit(hasBy, queryBy)|bit(q.LocalOnly, queryLocalOnly)|bit(hasToken, queryToken))
	if hasBy {
		dst = appendBy(dst, q.By)
	}
	if hasToken {
		dst = appendBytes(dst, q.By.Token)
	}
	dst = appendInt(appendInt(dst, q.MaxAge), q.StaleIfError)
	dst = appendInt(appendInt(dst, q.MinRevision), q.Wait)
	return appendList(dst, q.Ops, appendOp)
}

// DecodeQuery is the inverse of AppendQuery. Byte slices in the query alias b.
func DecodeQuery(b []byte) (kv.Query, error) { return decode(b, kindQuery, query) }

func query(r *reader) (q kv.Query) {
	f := r.flags(queryFlags, "query")
	if f&queryBy != 0 {
		q.By = by(r)
	}
	if f&queryToken != 0 {
		q.By.Token = token(r)
	}
	q.LocalOnly = f&queryLocalOnly != 0
	q.MaxAge = time.Duration(r.int("greatest age"))
	q.StaleIfError = time.Duration(r.int("greatest age on error"))
	q.MinRevision = r.int("least revision")
	q.Wait = time.Duration(r.int("wait"))
	q.Ops = list(r, 1, "ops", op)
	return q
}

// AppendPage appends the encoding of p to dst.
func AppendPage(dst []byte, p kv.Page) []byte {
	dst = appendStart(dst, kindPage)
	dst = appendHeader(dst, &p.Header)
	dst = append(dst, byte(p.Source))
	dst = appendInt(appendInt(dst, p.Age), p.Pending)
	return appendList(dst, p.Ops, appendOpResult)
}

// DecodePage is the inverse of AppendPage. Byte slices in the page alias b.
func DecodePage(b []byte) (kv.Page, error) { return decode(b, kindPage, page) }

func page(r *reader) (p kv.Page) {
	p.Header = header(r)
	p.Source = enum(r, kv.SourceCache, "source")
	p.Age = time.Duration(r.int("age"))
	pending := r.int("pending writes")
	if p.Pending = int(pending); int64(p.Pending) != pending {
		r.fail(ErrMalformed, "%d pending writes do not fit this machine's int", pending)
	}
	p.Ops = list(r, 2, "results", opResult)
	return p
}
