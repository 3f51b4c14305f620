package qexport.core;

/** What makes ids of one word. */
interface WordModel {
    /** Appends the word's ids. */
    void encode(String word, Ids ids);

    /** The token of an id; null: there is none. */
    String token(int id);

    /** The bytes of text that a token stands for. */
    byte[] bytes(String token);
}
