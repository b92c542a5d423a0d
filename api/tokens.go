package api

import (
	"context"
	"time"
)

// Tokens makes and ends the tokens with which other nodes join. It is an operator's: the administration socket has it
// and no other listener. Errors are *kv.Error. All methods may be called concurrently.
type Tokens interface {
	// Create makes a token that the cluster knows once Create returns. The request has been checked for form.
	Create(ctx context.Context, r TokenRequest) (CreatedToken, error)
	// List returns every token that has not been revoked, expired ones included, without their secrets.
	List(ctx context.Context) ([]TokenInfo, error)
	// Revoke ends a token; nodes that joined with it stay. An id that names none is KeyNotFound.
	Revoke(ctx context.Context, id string) error
}

// The roles that a token may be good for.
const (
	TokenRoleAny    = "any"
	TokenRoleMember = "member"
	TokenRoleProxy  = "proxy"
)

// TokenRequest says what a new token is to be good for.
type TokenRequest struct {
	Role  string        // TokenRoleAny, TokenRoleMember or TokenRoleProxy
	TTL   time.Duration // above 0
	Uses  int           // how many nodes may join with it, 0 for any number
	Scope []string      // key prefixes that a proxy joined with it may touch, "" being every key; none for a member
}

// CreatedToken is a new token, with the secret that nothing shows again.
type CreatedToken struct {
	Token   string    `json:"token"`
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
}

// TokenInfo is what the cluster knows of a token.
type TokenInfo struct {
	ID      string    `json:"id"`
	Role    string    `json:"role"`
	Scope   []string  `json:"scope"` // as in TokenRequest
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"` // 0: any number
	Used    int       `json:"used"`
	Created time.Time `json:"created"`
}
